package warlock_test

const roleVar = "WARLOCK_TEST_ROLE"

var roles = map[string]func(){}
