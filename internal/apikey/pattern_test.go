package apikey

import "regexp"

// pattern is the scanner's of tokens.md 14.1, for the tests to hold the code against.
var pattern = regexp.MustCompile(`csk_(live|test)_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}`)
