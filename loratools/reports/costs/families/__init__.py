"""How each family of transformers' models is built: from a config's fields to every parameter."""
