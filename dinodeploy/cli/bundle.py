"""`dinodeploy bundle`: verify, sign, pack and unpack a bundle; push it to the hub, pull it from there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import SIGNATURE_FILE
from dinodeploy.bundle.signing import sign, verify_signature
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import log, print_json, say
from dinodeploy.standalone.pack import pack_standalone

HELP = "Verify, sign, pack and unpack a bundle; push it to the Hugging Face hub, pull it from there."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)
Bundle = Annotated[Path, Argument(help="A bundle, or hf://ORG/NAME.")]
Revision = Annotated[
    str | None, Option("--revision", "--branch", help="Branch, tag or commit. Default: main.")
]
AsJson = Annotated[bool, Option("--json", help="The result as JSON on stdout.")]


@app.command("verify")
def verify_command(
    bundle: Bundle, require_signature: RequireSignature = None, as_json: AsJson = False
) -> None:
    """Hold every file against the manifest, and the whole against its signature if one is required."""
    opened = open_bundle(bundle, require_signature=require_signature)
    opened.verify()
    signed = (opened.root / SIGNATURE_FILE).is_file()
    files, digest = len(opened.manifest.files), opened.manifest.digest
    if as_json:
        facts = {"bundle": opened.named, "files": files, "digest": digest, "signed": signed}
        print_json({**facts, "signature_verified": require_signature is not None})
        return
    word = "signature verified" if require_signature else "signed, not verified" if signed else "not signed"
    say(f"{opened.named}: {files} files are what was exported; {word}")


@app.command("sign")
def sign_command(
    bundle: Bundle,
    key: Annotated[Path, Option(help="A private elliptic-curve key in PEM.")],
    password: Annotated[
        str | None, Option(envvar="DINODEPLOY_KEY_PASSWORD", help="Of the key, if it has one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an OpenSSF model signature into the bundle."""
    opened = open_bundle(bundle)
    opened.require_local("signing")
    target = sign(opened.root, key, password)
    if as_json:
        print_json({"signature": str(target)})
        return
    say(f"{target}: signed, and verified")
    say(f"next: dinodeploy bundle verify {bundle} --require-signature KEY.pub")


@app.command("pack")
def pack_command(
    bundle: Bundle,
    out: Annotated[Path | None, Option(help="The file to write. Default: beside the bundle.")] = None,
    standalone: Annotated[
        bool, Option("--standalone", help="One file with the runtime in it: python3 model.pyz embed …")
    ] = False,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make one file of a bundle."""
    opened = open_bundle(bundle, require_signature=require_signature)
    beside = Path() if opened.hub is not None else opened.home.resolve().parent
    target = out or beside / (opened.name + (".pyz" if standalone else ".zip"))
    (pack_standalone if standalone else pack)(opened, target, overwrite=overwrite)
    if as_json:
        print_json({"out": str(target), "bytes": target.stat().st_size})
        return
    say(f"{target}: {target.stat().st_size:,} bytes")
    say(f"next: python3 {target} embed photos/" if standalone else f"next: dinodeploy bundle unpack {target}")


@app.command("unpack")
def unpack_command(
    archive: Annotated[Path, Argument(help="What `pack` wrote.")],
    out: Annotated[Path | None, Option(help="The directory to make. Default: by its name.")] = None,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of one file: everything is checked before anything appears."""
    target = out or Path(archive.name).with_suffix("")

    def accept(root: Path) -> None:
        if require_signature is not None:
            verify_signature(root, require_signature)

    unpack(archive, target, overwrite=overwrite, accept=accept)
    if as_json:
        print_json({"out": str(target)})
        return
    say(f"{target}: unpacked and verified")
    say(f"next: dinodeploy check {target}")


@app.command("push")
def push_command(
    bundle: Bundle,
    target: Annotated[str, Argument(help="ORG/NAME, or ORG/NAME/FOLDER.", metavar="ORG/NAME")],
    revision: Revision = None,
    private: Annotated[bool, Option("--private", help="Make the repository private.")] = False,
    gated: Annotated[
        bool, Option("--gated", help="Users must accept the licence before they get the files.")
    ] = False,
    message: Annotated[str | None, Option(help="Message of the commit.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be uploaded, and stop.")] = False,
    require_signature: RequireSignature = None,
    as_json: AsJson = False,
) -> None:
    """Upload a bundle to the Hugging Face hub, with a model card. Only changed files are sent.

    A folder made by `export --layout transformers` can be uploaded too. The token is that of HF_TOKEN or `hf
    auth login`.
    """
    from dinodeploy.hub.push import push  # with the judge's tables, which no other command here needs

    pushed = push(
        bundle,
        target,
        revision=revision,
        private=private,
        gated=gated,
        message=message,
        dry_run=dry_run,
        require_signature=require_signature,
        log=log,
    )
    if as_json:
        print_json(pushed.as_json())
        return
    changes = len(pushed.uploaded) + len(pushed.removed)
    done = f"{changes} files changed, commit {pushed.commit}" if changes else "nothing to upload"
    say(f"{pushed.url}: {'nothing was changed (--dry-run)' if dry_run else done}")
    if pushed.is_bundle:
        say(f"next: dinodeploy embed photos/ --engine {pushed.reference}")


@app.command("pull")
def pull_command(
    source: Annotated[str, Argument(help="ORG/NAME[/FOLDER][@REVISION].", metavar="ORG/NAME")],
    out: Annotated[Path | None, Argument(help="The folder to make. Default: NAME.", metavar="DIR")] = None,
    revision: Revision = None,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a whole bundle from the Hugging Face hub into a folder, verified.

    `--engine hf://ORG/NAME` needs no copy, and downloads only what it runs.
    """
    from dinodeploy.hub.pull import pull

    key = require_signature
    pulled = pull(source, out, revision=revision, require_signature=key, overwrite=overwrite)
    if as_json:
        print_json(pulled.as_json())
        return
    say(f"{pulled.out}: {len(pulled.manifest.files)} files of {pulled.source}, verified")
    say(f"next: dinodeploy check {pulled.out}")
