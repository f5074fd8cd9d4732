# The moment tells hooks of one environment from hooks of another.
PROBE_SOURCED=$(date +%s.%N)
export PROBE_SOURCED
export PROBE_SETTING=${PROBE_SETTING:-not set}
export PROBE_MULTILINE="first line
second 'line' with \"quotes\" and \\ \$signs"
PROBE_NOT_EXPORTED=1
