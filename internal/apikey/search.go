package apikey

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
)

// window is how much of a file is held at once: lines may be of any length.
const window = 64 << 10

// Hit is a key that was found. Pattern and checksum make it certain that it is one; whether a
// record has it is another question.
type Hit struct {
	ID   string
	Env  Env
	File string // with slashes, keys in it shortened; it may hold any other byte
	// Commit is the first that holds it there; "" in the files as they are, and for a blob that
	// no commit holds but a ref names: then File is its object id.
	Commit string
	Line   int // from 1; 0: the name of the file holds the key
	Column int // in bytes, from 1; 0 with Line 0
}

// search reads to the end and reports every key with its place. buf has at least 2 × Len bytes.
func search(ctx context.Context, r io.Reader, buf []byte, found func(k Key, line, column int)) error {
	line, column := 1, 1 // of what is held first
	pass := func(p []byte) {
		line += bytes.Count(p, []byte{'\n'})
		if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
			column, p = 1, p[i+1:]
		}
		column += len(p)
	}
	held := 0
	for {
		n, err := r.Read(buf[held:])
		rest := buf[:held+n]
		for {
			i := bytes.Index(rest, []byte(Prefix))
			if i < 0 {
				i = max(0, len(rest)-len(Prefix)+1)
			}
			pass(rest[:i])
			rest = rest[i:]
			if len(rest) < Len {
				break
			}
			if k, err := Parse(rest[:Len]); err == nil {
				found(k, line, column)
			}
			pass(rest[:1])
			rest = rest[1:]
		}
		held = copy(buf, rest)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// shorten takes the secrets out of a name, for it is printed.
func shorten(name string) string {
	var out strings.Builder
	from, to := -1, -1 // of what is hidden
	for i := range len(name) {
		if p := name[i:]; len(p) >= Len && shaped([]byte(p[:Len])) {
			from, to = i+idEnd, i+Len
		}
		switch {
		case i == from:
			out.WriteString("…")
		case i < from || i >= to:
			out.WriteByte(name[i])
		}
	}
	return out.String()
}

// cause leaves out of an error the path that it names, which may hold a key.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
