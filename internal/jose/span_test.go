package jose

import "testing"

func TestSpan(t *testing.T) {
	for s, want := range map[int64]string{
		0: "0s", 59: "59s", 60: "1m", 312: "5m12s", 599: "9m59s", 630: "10m", 3599: "59m", 3600: "1h", 12_000: "3h20m",
		86_399: "23h59m", 86_400: "24h", 172_799: "47h", 172_800: "2d", 40 * 86_400: "40d", 729 * 86_400: "729d", 795_713_141: "25y",
	} {
		if got := span(s); got != want {
			t.Errorf("%d: %s, want %s", s, got, want)
		}
	}
}
