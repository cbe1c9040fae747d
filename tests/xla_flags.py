"""XLA_FLAGS by which programs compile fast rather than run fast."""

from importlib.metadata import version

# Most of the tests' time is spent in compiling.
FAST = (
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
)
if version("jaxlib").startswith("0.10."):  # later ones have no other emitters
    FAST += " --xla_cpu_use_fusion_emitters=false"  # with them: three times the time
