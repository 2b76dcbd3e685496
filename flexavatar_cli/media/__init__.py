"""Images and video, in and out."""
