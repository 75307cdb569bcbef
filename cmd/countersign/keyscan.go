package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/apikey"
)

func keyScanCommand() *command {
	var history bool
	return &command{
		name:    "key scan",
		summary: "Find API keys in files and in git history.",
		examples: []string{
			"countersign key scan .",
			"countersign key scan --history .",
			"countersign key scan --json config.yaml | jq -r .id",
		},
		usage: "DIR|FILE [flags]",
		about: `A line for each key, never the key itself. The checksum in a key makes a hit
certain; links are not followed. Where a server answers it says what became of
the key. Exit 1 if a key is found.`,
		flags: func(f *flags) {
			f.yes(&history, "history", "also every commit of the git repository there")
		},
		see: "countersign key revoke, countersign key rotate",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 {
				return &admin.Problem{Code: "missing_argument", Exit: exitUsage, Message: "key scan needs one DIR or FILE", Hints: []string{"countersign key scan ."}}
			}
			return e.keyScan(ctx, args[0], history)
		},
	}
}

// leaked is one line of key scan --json (cli.md 11.3).
type leaked struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Commit string `json:"commit,omitempty"`
	ID     string `json:"id"`
	Env    string `json:"env"`
	State  string `json:"state,omitempty"` // active, revoked, unknown; none: no server answered
}

func (e *env) keyScan(ctx context.Context, name string, history bool) error {
	ids := map[string]string{} // to what became of it
	var printing error
	active := ""
	state := e.keyStates(ctx)
	err := apikey.Scan(ctx, name, history, func(h apikey.Hit) {
		if _, seen := ids[h.ID]; !seen {
			if ids[h.ID] = state(h.ID); ids[h.ID] == "active" && active == "" {
				active = h.ID
			}
		}
		if h.Commit == "" {
			h.File = asTyped(name, h.File)
		}
		if printing == nil {
			printing = e.printLeaked(h, ids[h.ID])
		}
	}, func(file string, err error) {
		e.say("warning: %s was not read: %s", escape(file), stranger(err.Error()))
	})
	switch {
	case err != nil:
		return &admin.Problem{Code: "unreadable", Message: err.Error(), Hints: []string{"countersign key scan ."}}
	case printing != nil:
		return printing
	case len(ids) == 0:
		if !e.json {
			e.say("no API key found")
		}
		return nil
	}
	hint := "end each key where it was made, then take it out"
	if active != "" {
		hint = "countersign key revoke " + active
	}
	return &admin.Problem{
		Code: "key_leaked", Message: fmt.Sprintf("scanning %s: %s found", escape(name), counted(len(ids), "key")), Hints: []string{hint},
	}
}

// asTyped is a file that was found, as whoever typed name can open it.
func asTyped(name, file string) string {
	if info, err := os.Stat(name); err == nil && !info.IsDir() {
		return name
	}
	return filepath.Join(name, file)
}

// keyStates asks the server what became of a key. Once none answers nobody is asked again: the search needs no server.
func (e *env) keyStates(ctx context.Context) func(id string) string {
	quiet := *e // whose error would be told
	quiet.timeout = min(e.timeout, 2*time.Second)
	away := false
	return func(id string) string {
		if away {
			return ""
		}
		got, err := askServer[admin.KeyStates](ctx, &quiet, "/v1/key/find", admin.KeyFind{IDs: []string{id}})
		if away = err != nil; away {
			return ""
		}
		return got.States[id]
	}
}

func (e *env) printLeaked(h apikey.Hit, state string) error {
	if e.json {
		return e.printJSON(leaked{File: h.File, Line: h.Line, Column: h.Column, Commit: h.Commit, ID: h.ID, Env: string(h.Env), State: state})
	}
	var where strings.Builder
	if h.Commit != "" {
		where.WriteString(h.Commit[:min(len(h.Commit), 12)] + ":")
	}
	where.WriteString(escape(h.File))
	if h.Line > 0 {
		fmt.Fprintf(&where, ":%d:%d", h.Line, h.Column)
	}
	switch state {
	case "unknown":
		state = ", unknown here"
	case "active":
		state = ", active\n\thint: countersign key revoke " + h.ID
	case "":
	default:
		state = ", " + state
	}
	_, err := fmt.Fprintf(e.out, "%s: csk_%s_%s… is an API key%s\n", where.String(), h.Env, h.ID, state)
	return err
}
