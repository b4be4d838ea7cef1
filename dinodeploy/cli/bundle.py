"""`dinodeploy bundle`: verify, sign, pack and unpack a bundle."""

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
from dinodeploy.cli.output import print_json, say
from dinodeploy.standalone.pack import pack_standalone

app = typer.Typer(help="Verify, sign, pack and unpack a bundle.", no_args_is_help=True, rich_markup_mode=None)
Bundle = Annotated[Path, Argument(help="A bundle.")]
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
        facts = {"bundle": str(opened.home), "files": files, "digest": digest, "signed": signed}
        print_json({**facts, "signature_verified": require_signature is not None})
        return
    word = "signature verified" if require_signature else "signed, not verified" if signed else "not signed"
    say(f"{opened.home}: {files} files are what was exported; {word}")


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
    target = sign(open_bundle(bundle).root, key, password)
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
    home = opened.home.resolve()
    target = out or home.with_name(home.name + (".pyz" if standalone else ".zip"))
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
