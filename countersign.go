// Package countersign is the module's root: the place of the Go SDK, with which a program
// speaks mutual TLS itself. This release has no SDK yet; programs use the proxy that
// `countersign run` gives them, or the SPIFFE Workload API.
package countersign
