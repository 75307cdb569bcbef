// Command countersign proves who is calling, on every call: one binary that is the server,
// the node, the demo and the client of all of them.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
