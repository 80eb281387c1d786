"""Isolation of model-written Python: a warm helper process that forks a child for every call.

Two sides that share nothing but a socket and these files:

* `client`, `launch` and `bubblewrap` run in the process that owns the tool; they start the helper and talk to it.
* `zygote`, `child` and the layers of isolation (`landlock`, `seccomp`, `thread_gate`, `limits`) run in the helper.
  It starts with `-I -S` and imports this package as `sandbox`, without the rest of `arpo_tools`, which is why the
  modules import each other relatively and nothing beyond the standard library.

Not a defence against faults of the kernel, nor against what two programs can measure of each other's timing.
"""
