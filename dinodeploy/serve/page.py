"""The page at /: drop a picture, see what the model sees in it. One document, nothing from elsewhere.

The browser computes the colours itself from the patch tokens that /embed sends: a PCA to three colours, and
the cosine of every patch to CLS or to the patch that is clicked. With an index, the nearest pictures.
"""

from __future__ import annotations

import base64
import hashlib

from dinodeploy.serve.page_script import SCRIPT
from dinodeploy.serve.page_style import STYLE

_BODY = """
<header>
  <h1>dinodeploy</h1>
  <p id="model" class="soft">…</p>
</header>
<main>
  <form id="key" hidden>
    <label for="secret">This service wants an API key.</label>
    <input id="secret" type="password" autocomplete="off" spellcheck="false" placeholder="API key">
    <button>Use it</button>
  </form>
  <label id="drop" tabindex="0">
    <input id="file" type="file" accept="image/*">
    <strong>Drop a picture</strong>
    <span class="soft">or click to choose one, or paste it</span>
  </label>
  <p id="status" role="status" aria-live="polite"></p>
  <section id="views" hidden>
    <figure>
      <canvas id="picture" aria-label="Your picture; click a patch"></canvas>
      <figcaption><b>Picture</b>, as the model gets it. Click a patch.</figcaption>
    </figure>
    <figure>
      <canvas id="pca" aria-label="Principal components of the patches"></canvas>
      <figcaption><b>PCA</b>: the three main directions of its patches, as colours.</figcaption>
    </figure>
    <figure>
      <canvas id="similarity" aria-label="Similarity map"></canvas>
      <figcaption>
        <b>Similarity</b> to <span id="to">CLS</span>
        <span class="scale"><i id="low"></i><span id="ramp"></span><i id="high"></i></span>
        <button id="reset" type="button" hidden>to CLS</button>
      </figcaption>
    </figure>
  </section>
  <section id="found" hidden>
    <h2>Nearest in the index</h2>
    <ol id="neighbours"></ol>
  </section>
</main>
<footer class="soft"><span id="facts"></span> <a href="/openapi.json">OpenAPI</a></footer>
"""


def _hash(text: str) -> str:
    """A source of a content security policy: this very text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>dinodeploy</title>\n<style>{STYLE}</style>\n</head>\n<body>{_BODY}<script>{SCRIPT}</script>\n"
    "</body>\n</html>\n"
)
POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; img-src blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
