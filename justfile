# Shortcuts; everything real is in xtask.

# All that CI runs.
check *ARGS:
    cargo xtask test {{ARGS}}

# What needs no release build.
quick:
    cargo xtask test --quick

bench *ARGS:
    cargo xtask bench {{ARGS}}

testbed MACHINE *ARGS:
    cargo xtask testbed {{MACHINE}} {{ARGS}}

docs:
    cargo xtask docs
