"""Bundles on the Hugging Face hub: `hf://org/name@revision` as an engine, push, pull, the model card.

    reference.py    hf://org/name/folder@revision: parse and print
    client.py       the calls to huggingface_hub, every failure as one line
    files.py        a bundle's files, fetched from the hub when they are first verified
    contents.py     what a push uploads
    push.py         upload it; pull.py: copy a bundle from the hub into a folder
    card.py         the generated model card (README.md)

`huggingface_hub` is imported when the hub is used (the extra `hub`). HF_TOKEN, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE and HF_ENDPOINT work as there.
"""
