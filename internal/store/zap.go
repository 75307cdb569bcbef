package store

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// schemaUnknown are what etcd warns of once in a new store, before its first snapshot.
var schemaUnknown = []string{"Failed to detect schema version", "failed to update storage version"}

// newZap is etcd's logger: it writes to log, and fatal and panic entries become a fault.
func newZap(log *slog.Logger, f *fault) *zap.Logger {
	hook := faultHook{f}
	return zap.New(zapToSlog{log.With("part", "etcd"), f}, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// faultHook runs after a fatal or panic entry was written, in the goroutine that made it.
type faultHook struct{ f *fault }

func (h faultHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	text := e.Message
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			text += ": " + err.Error()
		}
	}
	h.f.stop(text)
}

// zapToSlog is a zapcore.Core over slog.
type zapToSlog struct {
	log *slog.Logger
	f   *fault
}

// level says what an entry of etcd is to an operator of ours. Its information is detail; what
// it warns of while it starts and stops are settings that we chose and listeners that we
// closed: what goes wrong then comes back as an error.
func (c zapToSlog) level(l zapcore.Level) slog.Level {
	switch {
	case l > zapcore.ErrorLevel:
		return slog.LevelError
	case l <= zapcore.InfoLevel || !c.f.running.Load():
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

func (c zapToSlog) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.TODO(), c.level(l))
}

func (c zapToSlog) With(fields []zapcore.Field) zapcore.Core {
	return zapToSlog{slog.New(c.log.Handler().WithAttrs(attrs(fields))), c.f}
}

func (c zapToSlog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !slices.Contains(schemaUnknown, e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c zapToSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	ctx, level := context.TODO(), c.level(e.Level) // zap has no context to hand on
	if !c.log.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	if err := c.log.Handler().Handle(ctx, r); err != nil {
		return fmt.Errorf("logging for etcd: %w", err)
	}
	return nil
}

func (c zapToSlog) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(m)
		if v, ok := m.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
