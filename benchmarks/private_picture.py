def curves(found):
    return ""
