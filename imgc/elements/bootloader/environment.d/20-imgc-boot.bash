# What the disk must be able to start under, and its partition table, where
# the caller does not say: what the stock block-device elements mean.
if [[ "${DIB_BLOCK_DEVICE:-}" != "efi" ]]; then
    export IMGC_BOOT=${IMGC_BOOT:-bios}
    export IMGC_PARTITIONING=${IMGC_PARTITIONING:-${DIB_BLOCK_DEVICE:-mbr}}
elif [[ "$ARCH" == "amd64" ]]; then
    export IMGC_BOOT=${IMGC_BOOT:-both}
    export IMGC_PARTITIONING=${IMGC_PARTITIONING:-gpt}
else
    export IMGC_BOOT=${IMGC_BOOT:-efi}
    export IMGC_PARTITIONING=${IMGC_PARTITIONING:-gpt}
fi
