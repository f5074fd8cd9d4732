# One user: the account, its keys and whether it may use sudo.  Of root, only the keys.
define ci_users::user(
  $home,
  $uid = undef,
  $groups = [],
  $sudo = false,
  $shell = '/bin/bash',
  $authorized_keys = ''
) {
  File {
    backup => false,
  }

  if $name != 'root' {
    group { $name:
      ensure => present,
      gid    => $uid,
    }

    # `*` is no password, and unlike `!` it does not keep a server without PAM from taking keys.
    user { $name:
      ensure     => present,
      uid        => $uid,
      gid        => $name,
      groups     => $groups,
      membership => minimum,
      home       => $home,
      managehome => true,
      shell      => $shell,
      password   => '*',
      require    => Group[$name],
    }

    $sudoers = $sudo ? {
      true    => file,
      default => absent,
    }

    file { "/etc/sudoers.d/90-ci-${name}":
      ensure  => $sudoers,
      owner   => 'root',
      group   => 'root',
      mode    => '0440',
      content => "Defaults:${name} !requiretty\n${name} ALL=(ALL:ALL) NOPASSWD: ALL\n",
    }
  }

  # Puppet itself has the owner of a file come before it.
  if $authorized_keys != '' {
    file { "${home}/.ssh":
      ensure => directory,
      owner  => $name,
      group  => $name,
      mode   => '0700',
    }

    file { "${home}/.ssh/authorized_keys":
      ensure  => file,
      owner   => $name,
      group   => $name,
      mode    => '0600',
      content => $authorized_keys,
    }
  }
}
