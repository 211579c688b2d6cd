"""What can be known of a training before it starts: by looking, and by a few steps on a copy."""
