"""POST /v1/embeddings, GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response

from dinodeploy.bundle.manifest import FILE_NAME
from dinodeploy.serve.bodies.answers import send_pieces
from dinodeploy.serve.bodies.problems import openai_status
from dinodeploy.serve.bodies.requests import parse_body
from dinodeploy.serve.openai.embed import answer_size, embed_inputs, write_embeddings
from dinodeploy.serve.openai.inputs import read_embeddings_request
from dinodeploy.serve.openai.messages import (
    EMBEDDINGS_BODY,
    EmbeddingList,
    Model,
    ModelList,
    OpenAIProblem,
)
from dinodeploy.serve.openai.names import ServedModel, find_model, served_models
from dinodeploy.serve.service import Service

Responses = dict[int | str, dict[str, Any]]


def add_openai(app: FastAPI, service: Service, work: Responses, guarded: Responses) -> None:
    """Add the routes. work, guarded: documented errors of routes that take images, and of the others."""
    models = served_models(service)
    created = int((service.embedder.bundle.root / FILE_NAME).stat().st_mtime)
    not_found: Responses = {404: {"description": "Model not found"}}

    @app.post(
        "/v1/embeddings",
        response_model=EmbeddingList,
        responses=_documented({**work, **not_found}),
        openapi_extra=EMBEDDINGS_BODY,
    )
    async def embeddings(request: Request) -> Response:
        """Embed images, and texts where the bundle can, as OpenAI's API does."""
        read = partial(
            read_embeddings_request,
            headers=request.headers,
            settings=service.settings,
            texts=service.words is not None,
        )
        asked = await parse_body(request.state.body, read)
        model = find_model(models, asked.model)
        embedded = await embed_inputs(service, model, asked)
        vectors = [vector for vector, _ in embedded]
        tokens = sum(count for _, count in embedded)
        pieces = write_embeddings(model.id, vectors, asked.numbers, tokens)
        return send_pieces(request, service, answer_size(vectors, asked.numbers), pieces)

    @app.get("/v1/models", responses=_documented(guarded))
    async def list_models() -> ModelList:
        """The models: one id for each output that is one vector per image, the default first."""
        return ModelList(data=[_described(service, model, created) for model in models.values()])

    @app.get("/v1/models/{model:path}", responses=_documented({**guarded, **not_found}))
    async def retrieve_model(model: str) -> Model:
        """One model."""
        return _described(service, find_model(models, model), created)


def _described(service: Service, model: ServedModel, created: int) -> Model:
    return Model(
        id=model.id,
        created=created,
        output=model.output,
        dimensions=model.dimensions,
        modalities=["image", "text"] if model.texts else ["image"],
        recipe=service.embedder.manifest.graph.recipe,
        fingerprint=service.fingerprint,
    )


def _documented(problems: Responses) -> Responses:
    """The errors of our routes in OpenAI's shape."""
    return {
        openai_status(int(status)): {"model": OpenAIProblem, "description": facts["description"]}
        for status, facts in problems.items()
    }
