"""Video files: decoding by frame number, clips, and procedural scenes."""
