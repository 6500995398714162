"""What a pickle would import, found without loading it."""
