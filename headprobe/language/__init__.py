"""What a text model does for a detector: the read-outs of its words."""
