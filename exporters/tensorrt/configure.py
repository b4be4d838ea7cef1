"""Turn build options and optimisation profiles into a TensorRT builder configuration."""

from __future__ import annotations

from collections.abc import Sequence

from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import ExportError
from exporters.tensorrt.api import (
    NUM_COMPUTE_CAPABILITIES,
    SET_COMPUTE_CAPABILITY,
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    TensorRT,
    has,
)
from exporters.tensorrt.messages import Messages
from exporters.tensorrt.options import (
    CURRENT,
    HARDWARE_COMPATIBLE,
    NOT_COMPATIBLE,
    BuildOptions,
    known_compute_capabilities,
)
from exporters.tensorrt.timing_cache import load_timing_cache

_GIB = 2**30
_CHANNELS = 3


def configure(
    trt: TensorRT,
    builder: Builder,
    network: INetworkDefinition,
    messages: Messages,
    profiles: Sequence[ProfileFacts],
    options: BuildOptions,
) -> IBuilderConfig:
    """The builder configuration for `network`.

    Raises ExportError for a profile that TensorRT refuses, MisuseError for a timing cache of another TensorRT
    or GPU.
    """
    config: IBuilderConfig = builder.create_builder_config()
    # fp32 must stay fp32: TF32, which is on by default, has only fp16's mantissa
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and types for inspection
    pixels: ITensor = network.get_input(0)
    for profile in profiles:
        _add_profile(builder, config, messages, pixels, profile)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * _GIB))
    if options.level is not None:
        config.builder_optimization_level = options.level
    _set_flags(trt, config, options)
    if options.hardware_compatible != NOT_COMPATIBLE:
        level = getattr(trt.HardwareCompatibilityLevel, HARDWARE_COMPATIBLE[options.hardware_compatible])
        config.hardware_compatibility_level = level
    _set_compute_capabilities(trt, config, options)
    if options.timing_cache is not None:
        load_timing_cache(config, options.timing_cache)
    return config


def _add_profile(
    builder: Builder, config: IBuilderConfig, messages: Messages, pixels: ITensor, profile: ProfileFacts
) -> None:
    takes_bytes = str(pixels.dtype).endswith("UINT8")
    shapes = [
        (b, h, w, _CHANNELS) if takes_bytes else (b, _CHANNELS, h, w)
        for b, h, w in (profile.min, profile.opt, profile.max)
    ]
    made: IOptimizationProfile = builder.create_optimization_profile()
    made.set_shape(pixels.name, *shapes)
    if config.add_optimization_profile(made) < 0:
        raise ExportError(f"TensorRT refuses the profile {profile}: {messages.reason()}")


def _set_flags(trt: TensorRT, config: IBuilderConfig, options: BuildOptions) -> None:
    """Set the builder flags.

    A stripped plan is refitted with the weights it was built from, which costs no speed (REFIT_IDENTICAL).
    `--refit` allows other weights, and costs speed.
    """
    flags = {
        trt.BuilderFlag.REFIT: options.refit,
        trt.BuilderFlag.REFIT_IDENTICAL: options.strip_plan and not options.refit,
        trt.BuilderFlag.STRIP_PLAN: options.strip_plan,
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
        trt.BuilderFlag.WEIGHT_STREAMING: options.weight_streaming,
    }
    for flag, wanted in flags.items():
        if wanted:
            config.set_flag(flag)


def _set_compute_capabilities(trt: TensorRT, config: IBuilderConfig, options: BuildOptions) -> None:
    wanted = options.compute_capabilities
    if not wanted:
        return
    # check_options has refused targets without these members
    assert has(trt, NUM_COMPUTE_CAPABILITIES)
    assert has(trt, SET_COMPUTE_CAPABILITY)
    known = known_compute_capabilities(trt) | {CURRENT: "CURRENT"}
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        config.set_compute_capability(getattr(trt.ComputeCapability, known[name]), index)
