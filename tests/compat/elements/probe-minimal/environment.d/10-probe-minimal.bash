export DISTRO_NAME=probe
export DIB_RELEASE=${DIB_RELEASE:-1}
export DIB_INIT_SYSTEM=systemd
# What Python leaves behind depends on when it ran.
export PYTHONDONTWRITEBYTECODE=1
