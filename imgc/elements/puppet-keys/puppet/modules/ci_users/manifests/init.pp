# The users of CI and their authorized_keys.  `users` maps names to the parameters of ci_users::user; `groups` are
# all groups that users are in, each once.
#
# Core types only, and nothing that Puppet 3 does not have.
class ci_users($users = {}, $groups = []) {
  group { $groups:
    ensure => present,
    system => true,
  }

  create_resources('ci_users::user', $users)
}
