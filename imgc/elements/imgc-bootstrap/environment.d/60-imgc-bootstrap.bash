# DIB_APT_SOURCES_CONF has the image's apt sources, one "name:line" each; it is set by the distribution's element.
# Single quotes keep the lines whole through the shell that the debootstrap element starts mmdebstrap with.
if [ -z "${DIB_MMDEBSTRAP_EXTRA_ARGS:-}" ] && [ -n "${DIB_APT_SOURCES_CONF:-}" ]; then
    _imgc_lines=$(printf '%s\n' "${DIB_APT_SOURCES_CONF}" | sed -n 's/^[^:]*://p' | tr '\n' '%')
    if [[ "${_imgc_lines}" != *"'"* ]]; then
        export DIB_MMDEBSTRAP_EXTRA_ARGS="--include=systemd-sysv,busybox,sudo,gnupg2,python3"
        # A pinned archive is older than it says it may be; that it was valid when it was pinned is all that counts.
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --aptopt='Acquire::Check-Valid-Until \"false\"'"
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --customize-hook='rm -f \"\$1/etc/apt/apt.conf.d/99mmdebstrap\"'"
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --setup-hook='echo \"${_imgc_lines}\" | tr % \"\\n\" > \"\$1/etc/apt/sources.list\"'"
    fi
    unset _imgc_lines
fi
