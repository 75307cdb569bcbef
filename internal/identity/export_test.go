package identity

// Remembered is the number of proofs a Trust holds.
func Remembered(t *Trust) int {
	t.seen.mu.RLock()
	defer t.seen.mu.RUnlock()
	return len(t.seen.leaf)
}
