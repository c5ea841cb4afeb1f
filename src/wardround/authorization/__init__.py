"""Who may do what: Cedar policies, decided and explained."""
