"""The kind table of what acts on the stream as a visit begins; one line adds one."""

from nutshell.model.entry.x0_mix import X0MixConfig

EntryConfig = X0MixConfig
