"""The reason of a failed build, from TensorRT's messages."""

from __future__ import annotations

from exporters.tensorrt.messages import Messages


def test_the_first_useful_error_without_source_locations() -> None:
    messages = Messages()
    assert messages.reason() == "it gave no reason"
    messages.errors = [
        "Skipping the engine compute capability check",
        "[builder.cpp::buildSerializedNetwork::12] no kernel within the workspace limit",
        "another",
    ]
    assert messages.reason() == "no kernel within the workspace limit; give a larger --workspace"


def test_long_messages_are_cut() -> None:
    messages = Messages()
    messages.errors = ["x" * 1000]
    assert len(messages.reason()) == 301
