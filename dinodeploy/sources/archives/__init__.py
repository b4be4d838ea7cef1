"""Archives that hold images: tar and zip."""
