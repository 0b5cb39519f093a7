"""What `report` reads of a user's own files: checkpoints as architectures, adapters as sized rows."""
