"""The command line. A command is short: parse, one call, print."""

HELP = "DINOv3 from PyTorch checkpoints to verified engines: export, judge, embed, search, serve."
# In the order of the help page. Each command is a function, or a group of them, in the module of its name.
GROUPS = {
    "Export and verify": ("export", "build", "check", "bench", "ranges", "convert"),
    "Embed and search": ("embed", "merge", "index", "search", "dedupe", "visualize"),
    "Words": ("classify", "segment"),
    "Heads": ("train-head", "add-head", "predict"),
    "Evaluate": ("evaluate",),
    "Serve": ("serve", "web", "triton"),
    "Tools": ("inspect", "bundle", "doctor", "debug"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
