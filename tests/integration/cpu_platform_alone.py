"""What a CPU run needs from the plug-in and nothing else; loaded by verl through VERL_USE_EXTERNAL_MODULES."""

from arpo_verl.integration.cpu.platform import use_cpu_platform

use_cpu_platform()
