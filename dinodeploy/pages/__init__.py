"""HTML pages: Jinja2 templates, style sheets and scripts as files, with one palette for all of them.

base.html, base.css            what every page shares: sizes and spaces; palette.py has the colours
report.html, report.css        `check --report page.html`
sheet.html, .css, .js          contact sheets of `search --html` and `dedupe --html`
service.html, .css, .js        the page that `serve` shows at /, with sample.jpg; routes.*: that at /docs
visualize.html, .css, .js      `visualize --html`
predict.html, .css, .js        `predict --html`; draw_predictions.js is shared with the service
web.html, .css, .js            the page of `dinodeploy web`; web_pixels.js has its preprocessing and its judge
patch_maps.js                  PCA and similarity of patches, for web and service
colour_scale.js                the colour of a value, for pages that draw maps themselves
plot.html, plot.css            a plot of `ranges` or `bench` as a page

A page is one self-contained file: style and script are inlined, nothing is requested from elsewhere.
"""

from __future__ import annotations

from dinodeploy.pages.render import check_pages, jpeg_uri, render_page, script_of, style_of

__all__ = ["check_pages", "jpeg_uri", "render_page", "script_of", "style_of"]
