include ci_users
