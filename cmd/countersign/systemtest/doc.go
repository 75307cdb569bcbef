// Package systemtest tries the built program as other people would: as its owner, as root,
// and as a second user of the machine who means harm (security.md 2).
//
// Its words: a house is one running `up`, the owner is who started it, the stranger is another
// user, a puppet is a program that does on its standard input what a test tells it.
//
// Its promise: every socket, port and file of security.md 5 is tried, and each fault that was
// ever found keeps a test with its name. The tests carry the build tag system: they need root,
// curl, python3 and openssl, and fail where these are missing.
package systemtest
