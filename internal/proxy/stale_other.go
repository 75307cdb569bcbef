//go:build !unix

package proxy

import "net"

// stale cannot look here; a request that met a connection's end is sent again where that is safe.
func stale(net.Conn) bool { return false }
