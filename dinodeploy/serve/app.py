"""The routes. `create_app(service)` is an ASGI application for any server; the caller closes the service.

POST /embed           images -> outputs               GET /health   liveness
POST /search          an image -> its neighbours      GET /ready    readiness
GET  /search?text=    words -> the nearest images     GET /metrics  for Prometheus
POST /classify?label= images -> probable labels       GET /         the web page
POST /predict         images -> classes, masks, boxes, depth, by the head of the bundle
POST /v1/embeddings   OpenAI's API (`openai/`)        GET /docs     these routes
GET  /thumbnail?id=   thumbnail of a neighbour        GET /model    the model and the limits
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from dinodeploy import __version__
from dinodeploy.files import schema
from dinodeploy.serve import messages
from dinodeploy.serve.bodies import predictions
from dinodeploy.serve.bodies.answers import (
    BYTES_PER_NUMBER,
    Encoding,
    encode_answers,
    encoded_size,
    send_pieces,
)
from dinodeploy.serve.bodies.pages import add_pages
from dinodeploy.serve.bodies.problems import problem
from dinodeploy.serve.bodies.requests import parse_body, read_questions
from dinodeploy.serve.guard import Guard
from dinodeploy.serve.limits.log import Log
from dinodeploy.serve.metrics import CONTENT_TYPE, Metrics
from dinodeploy.serve.openai.routes import add_openai
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import MOST_NEIGHBOURS, Question, Service
from dinodeploy.serve.words import LONGEST as WORDS
from dinodeploy.serve.words import TEMPLATE, classify_images, search_text
from dinodeploy.tasks.prediction import PredictOptions

_IMAGE = {
    "oneOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "required": [name],
            "properties": {name: {"type": "string", "description": text}},
        }
        for name, text in (
            ("base64", "An image file; data: prefix, line breaks and the URL-safe alphabet are accepted."),
            ("url", "https; where the service allows URLs."),
        )
    ]
}
_LIMITS = ("max_bytes", "max_pixels", "max_images", "max_answer")
ImageSize = Annotated[
    str | None,
    Query(
        pattern=r"^[1-9]\d{0,4}(,[1-9]\d{0,4})?$", description="Input size H or H,W. Default: the bundle's."
    ),
]
LONGEST = 4096  # characters of a filter, a search word or an id
_FILE = {"type": "string", "format": "binary"}


def _body(name: str, value: dict[str, Any], files: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI of a body that is a form, JSON or an image."""
    json_schema = {
        "type": "object",
        "additionalProperties": False,
        "required": [name],
        "properties": {name: value},
    }
    form = {"type": "object", "required": ["files"], "properties": {"files": files}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": json_schema},
                "image/*": {"schema": _FILE},
            },
        }
    }


EMBED_BODY = _body(
    "images", {"type": "array", "minItems": 1, "items": _IMAGE}, {"type": "array", "items": _FILE}
)
SEARCH_BODY = _body("image", _IMAGE, _FILE)


_MEANINGS = {
    401: "No valid key",
    404: "Not found",
    408: "Body too slow",
    413: "Too large",
    415: "Wrong content type",
    421: "Foreign Host header",
    422: "Invalid",
    429: "Too many requests",
    500: "Internal error",
    503: "Busy or stopping",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": messages.Problem, "description": _MEANINGS[s]} for s in statuses}


_GUARDED = _problems(401, 408, 413, 421, 429, 503)  # answers of the guard
_WORK = {**_GUARDED, **_problems(415, 422, 500)}


def create_app(service: Service, log: Log | None = None) -> FastAPI:
    """The application of an opened service. `log`: where log lines go; default: stderr."""
    log = log or Log()
    service.log_warnings(lambda line: log.write({"warning": line}))
    app = FastAPI(
        title="dinodeploy",
        version=__version__,
        description="DINOv3 embeddings of an engine with verified parity.",
        openapi_url=None,  # below: FastAPI would write it anew for each request
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the request named
    )
    metrics = Metrics(service)
    app.add_middleware(Guard, service=service, metrics=metrics, log=log)
    for error in (Refused, RequestValidationError, HTTPException):
        app.add_exception_handler(error, _failed)
    _add_work(app, service)
    _add_words(app, service)
    _add_predictions(app, service)
    _add_facts(app, service, metrics)
    add_openai(app, service, _WORK, _GUARDED)
    add_pages(app)
    return app


def _add_work(app: FastAPI, service: Service) -> None:
    @app.post("/embed", response_model=messages.EmbedResponse, responses=_WORK, openapi_extra=EMBED_BODY)
    async def embed(
        request: Request,
        outputs: Annotated[str, Query(description="Comma-separated names: cls, patch, …")] = "cls",
        imgsz: ImageSize = None,
        encoding: Annotated[Encoding, Query(description="Encoding of the numbers.")] = "json",
    ) -> Response:
        """Embed images. If one cannot be read, the answer is an error that names it."""
        questions = await _questions(request, service, "images")
        names = [name.strip() for name in outputs.split(",")]
        answers = await service.embed(questions, names, _size(imgsz), BYTES_PER_NUMBER[encoding])
        size = encoded_size(answers, encoding)
        return send_pieces(request, service, size, encode_answers(answers, service.fingerprint, encoding))

    @app.post(
        "/search",
        response_model=messages.SearchResponse,
        responses={**_WORK, **_problems(404)},
        openapi_extra=SEARCH_BODY,
    )
    async def search(
        request: Request,
        k: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="How many neighbours.")] = 10,
        filter: Annotated[
            str | None,
            Query(max_length=LONGEST, description="A condition, for example: width > 640 and label = 'cat'."),
        ] = None,
        text: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=LONGEST,
                description="A word that the id or the metadata must contain.",
            ),
        ] = None,
    ) -> messages.SearchResponse:
        """The indexed images nearest to one image, among those that match the conditions."""
        questions = await _questions(request, service, "image")
        if len(questions) != 1:
            raise Refused(422, f"got {len(questions)} images; wanted one")
        hits = await service.search(questions[0], k, filter, text)
        return messages.SearchResponse(results=[messages.FoundImage(**asdict(hit)) for hit in hits])

    @app.get(
        "/thumbnail",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {"schema": _FILE}}}, **_GUARDED, **_problems(404, 422)},
    )
    async def thumbnail(
        id: Annotated[str, Query(max_length=LONGEST, description="An id from /search.")],
    ) -> Response:
        """A small JPEG of an indexed image."""
        return Response(await service.thumbnail(id), media_type="image/jpeg")


def _add_words(app: FastAPI, service: Service) -> None:
    @app.get("/search", response_model=messages.SearchResponse, responses={**_GUARDED, **_problems(404, 422)})
    async def search_words(
        text: Annotated[
            str, Query(min_length=1, max_length=WORDS, description="What the images show: a red bicycle.")
        ],
        k: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="How many images.")] = 10,
        filter: Annotated[
            str | None,
            Query(max_length=LONGEST, description="A condition, for example: width > 640 and label = 'cat'."),
        ] = None,
    ) -> messages.SearchResponse:
        """The indexed images nearest to a text. Needs a bundle with a text graph."""
        hits = await search_text(service, text, k, filter)
        return messages.SearchResponse(results=[messages.FoundImage(**asdict(hit)) for hit in hits])

    @app.post(
        "/classify",
        response_model=messages.ClassifyResponse,
        responses={**_WORK, **_problems(404)},
        openapi_extra=EMBED_BODY,
    )
    async def classify(
        request: Request,
        label: Annotated[
            list[str] | None, Query(description="A label; repeat it. Default: the service's own labels.")
        ] = None,
        template: Annotated[
            str, Query(max_length=WORDS, description="What a label is put into, in the place of {}.")
        ] = TEMPLATE,
        top: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="How many classes per image.")] = 5,
    ) -> messages.ClassifyResponse:
        """Zero-shot classes of images: the probability of each label. Needs a bundle with a text graph."""
        questions = await _questions(request, service, "images")
        named = await classify_images(service, questions, label or [], template, top)
        return messages.ClassifyResponse(
            images=[messages.ClassifiedImage(name=name, classes=found) for name, found in named]  # type: ignore[arg-type]
        )


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        response_model=messages.PredictResponse,
        responses={**_WORK, **_problems(404)},
        openapi_extra=EMBED_BODY,
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="Classes of a classifier.")] = 5,
        threshold: Annotated[
            float | None, Query(ge=0, le=1, description="Smallest score of an object. Default: the model's.")
        ] = None,
        task: Annotated[
            Literal["semantic", "instance", "panoptic"] | None,
            Query(description="Where a head can do several."),
        ] = None,
        masks: Annotated[
            predictions.Masks, Query(description="png: one map per image; rle: run lengths per region.")
        ] = "png",
        imgsz: ImageSize = None,
    ) -> Response:
        """What the head of the bundle finds: classes, masks, boxes or depth."""
        questions = await _questions(request, service, "images")
        options = PredictOptions(task, top, threshold)
        body = await predictions.predict(service, questions, options, _size(imgsz), masks)
        request.state.held = service.hold_answer(len(body))  # the guard releases it
        return Response(body, media_type="application/json")


def _add_facts(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/model", responses=_GUARDED)
    async def model() -> messages.ModelResponse:
        """The model, its preprocessing, the index and the limits."""
        return _model(service)

    @app.get("/health")
    async def health() -> messages.Health:
        """200 as long as the process runs."""
        return messages.Health(status="ok")

    @app.get("/ready", responses={503: {"model": messages.Health, "description": "Stopping or stuck"}})
    async def ready(response: Response) -> messages.Health:
        """200 while images can be answered, 503 during shutdown and while no decoder process answers."""
        response.status_code = 200 if service.ready else 503
        if service.draining:
            return messages.Health(status="draining")
        return messages.Health(status="ready" if service.ready else "no decoder answers")

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_GUARDED},
    )
    async def prometheus() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _size(imgsz: str | None) -> tuple[int, int] | None:
    if imgsz is None:
        return None
    sides = [int(side) for side in imgsz.split(",")]
    return sides[0], sides[-1]


async def _questions(request: Request, service: Service, field: str) -> list[Question]:
    """The images of a request."""
    read = partial(read_questions, headers=request.headers, settings=service.settings, field=field)
    return await parse_body(request.state.body, read)


def _model(service: Service) -> messages.ModelResponse:
    manifest, settings = service.embedder.manifest, service.settings
    head = predictions.head_of(service)
    return messages.ModelResponse(
        arch=manifest.model.arch,
        embed_dim=manifest.model.embed_dim,
        patch_size=manifest.model.patch_size,
        recipe=manifest.graph.recipe,
        weights=manifest.model.weights,
        engine=f"{service.embedder.engine.file}, {service.embedder.backend.runtime}",
        device=service.embedder.backend.device,
        preprocess=schema.dump(manifest.preprocess),
        outputs=list(service.output_names),
        head=None if head is None else messages.HeadResponse(task=head.task, classes=list(head.classes)),
        index=len(service.neighbours) if service.has_index else None,
        texts=service.words is not None,
        labels=len(classes.names) if service.words and (classes := service.words.classes) else None,
        index_output=service.neighbours.output if service.has_index else None,
        index_columns=service.neighbours.columns if service.has_index else None,
        limits=messages.Limits(
            **{name: getattr(settings, name) for name in _LIMITS},
            formats=list(settings.formats),
            urls=settings.allow_urls,
        ),
        licence=manifest.licence,
    )


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to an error that a route or the framework raised."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        error = Refused(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    elif isinstance(error, HTTPException):
        error = Refused(error.status_code, str(error.detail), headers=error.headers)
    assert isinstance(error, Refused)
    status, headers, content = problem(request.url.path, error, request.state.request_id)
    return Response(content, status, headers)
