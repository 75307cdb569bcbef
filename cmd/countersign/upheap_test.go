package main

import "testing"

func TestRoomFor(t *testing.T) {
	for _, test := range []struct {
		live uint64
		want int
	}{{0, 200}, {1 << 20, 200}, {16 << 20, 200}, {20 << 20, 150}, {32 << 20, 100}, {1 << 30, 100}} {
		if got := roomFor(test.live); got != test.want {
			t.Errorf("%d bytes: got %d, want %d", test.live, got, test.want)
		}
	}
}
