//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// build makes the binary that is measured: the product as it is.
func (s *stand) build(ctx context.Context) error {
	s.binary = filepath.Join(s.dir, "countersign")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "countersign.dev/cmd/countersign")
	cmd.Stderr = s.talk
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building countersign: %w", err)
	}
	return nil
}
