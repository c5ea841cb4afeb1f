"""Where study code comes from: packages, their signatures, contents and changes."""
