package store

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// upkeepEvery is how often history is compacted, and how much of it is kept.
const upkeepEvery = 5 * time.Minute

// Upkeep compacts the history of st, every five minutes up to the revision of five minutes
// ago, until ctx ends. An error of one round is logged, and the next round tries again. A store whose upkeep is not ours (no Keeper) is left alone.
func Upkeep(ctx context.Context, st Store, log *slog.Logger) error {
	keeper, ours := st.(Keeper)
	var before int64 // revision of the round before; 0 when it is not known
	for {
		if ours {
			rev, err := upkeepOnce(ctx, st, keeper, before)
			if err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "upkeep of the store", "error", err)
			}
			before = rev
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(upkeepEvery):
		}
	}
}

func upkeepOnce(ctx context.Context, st Store, keeper Keeper, before int64) (rev int64, err error) {
	now, err := st.Status(ctx)
	if err != nil {
		return before, err
	}
	if before > 0 && before < now.Revision {
		err := keeper.Compact(ctx, before)
		if err != nil && !errors.Is(err, ErrCompacted) {
			return before, err
		}
	}
	return now.Revision, nil
}
