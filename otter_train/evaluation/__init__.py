"""How good the answers of a trained model are."""
