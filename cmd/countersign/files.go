package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/resource"
)

const maxFiles = 64 << 20 // bytes of all files of one command; the server has its own limits

// readFiles reads what -f names: files, directories (their *.yaml, *.yml, *.json, sorted), and
// "-" for stdin. doing is the word of errors: "applying".
func (e *env) readFiles(doing string, names []string) ([]admin.File, error) {
	var files []admin.File
	left := int64(maxFiles)
	stdin := false
	for _, name := range names {
		list := []string{name}
		if name == "-" {
			if stdin {
				return nil, usage("-f - is given twice: stdin can be read once", "countersign "+e.cmd.name+" -f -")
			}
			stdin = true
		} else if st, err := os.Stat(name); err != nil {
			return nil, unreadable(name, err)
		} else if st.IsDir() {
			if list, err = documentsIn(name); err != nil {
				return nil, err
			}
		}
		for _, path := range list {
			b, err := e.readOne(path, left)
			if err != nil {
				return nil, err
			}
			left -= int64(len(b))
			files = append(files, admin.File{Name: path, Data: string(b)})
		}
	}
	if !slices.ContainsFunc(files, func(f admin.File) bool { return strings.TrimSpace(f.Data) != "" }) {
		return nil, &admin.Problem{Code: "no_documents", Message: fmt.Sprintf("reading %s: it is empty", strings.Join(names, ", ")), Hints: []string{"countersign " + e.cmd.name + " -f policy.yaml"}}
	}
	return files, notText(doing, files)
}

// documentsIn lists the files of a directory that hold documents.
func documentsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, unreadable(dir, err)
	}
	var list []string
	for _, d := range entries {
		if ext := filepath.Ext(d.Name()); !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			list = append(list, filepath.Join(dir, d.Name()))
		}
	}
	if len(list) == 0 {
		return nil, &admin.Problem{Code: "no_documents", Message: fmt.Sprintf("reading %s: no .yaml, .yml or .json file in it", dir)}
	}
	return list, nil
}

// readOne reads a file of at most left bytes, whatever kind of file it is.
func (e *env) readOne(path string, left int64) ([]byte, error) {
	in := e.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, left+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if int64(len(b)) > left {
		return nil, &admin.Problem{Code: "too_large", Message: fmt.Sprintf("reading %s: more than %d MiB, which is most at once", path, maxFiles>>20),
			Hints: []string{"apply the files in several steps"}}
	}
	return b, nil
}

func unreadable(path string, err error) error {
	code := "failed"
	if errors.Is(err, fs.ErrNotExist) {
		code = "file_not_found"
	}
	return &admin.Problem{Code: code, Message: fmt.Sprintf("reading %s: %s", path, reason(err))}
}

// notText reports the files that are not UTF-8, with the decoder's own words: on their way to
// the server such bytes would be replaced, and something else than the file would be applied.
func notText(doing string, files []admin.File) error {
	var faults []resource.Fault
	for _, f := range files {
		if utf8.ValidString(f.Data) {
			continue
		}
		_, own := resource.Decode([]resource.File{{Name: f.Name, Data: []byte(f.Data)}}, resource.Options{})
		if !resource.Stops(own) {
			own = []resource.Fault{{File: f.Name, Line: 1, Column: 1, Code: "E101", Text: "the file is not UTF-8", Severity: resource.Error}}
		}
		faults = append(faults, own...)
	}
	if len(faults) == 0 {
		return nil
	}
	what := files[0].Name
	if len(files) > 1 {
		what = fmt.Sprintf("%d files", len(files))
	}
	return &admin.Problem{Code: "faults", Message: fmt.Sprintf("%s %s: %s; nothing was changed", doing, what, counted(len(faults), "fault")), Faults: faults}
}

// kindOf finds the kind that a word of the command line names.
func kindOf(word string) (resource.Kind, error) {
	if k, ok := resource.LookupKind(word); ok {
		return k, nil
	}
	p := &admin.Problem{Code: "unknown_kind", Exit: exitUsage, Message: fmt.Sprintf("kind %q is not known", word)}
	if near := resource.Suggest(word); near != "" {
		p.Hints = append(p.Hints, "countersign get "+near)
	}
	p.Hints = append(p.Hints, "countersign get")
	return resource.Kind{}, p
}

// objectNames reads KIND NAME…, KIND/NAME… and names with their namespace (shop/orders), which
// -n must not contradict.
func (e *env) objectNames(args []string) (resource.Kind, []admin.Ref, error) {
	word, first, joined := strings.Cut(args[0], "/")
	kind, err := kindOf(word)
	if err != nil {
		return kind, nil, err
	}
	names := args[1:]
	if joined {
		names = append([]string{first}, names...)
	}
	var refs []admin.Ref
	for _, name := range names {
		if word, rest, ok := strings.Cut(name, "/"); ok {
			if k, known := resource.LookupKind(word); known && k.Name == kind.Name && joined {
				name = rest // ap/a ap/b
			}
		}
		ref := admin.Ref{Kind: kind.Name, Namespace: e.inForce(), Name: name}
		if space, bare, ok := strings.Cut(name, "/"); ok {
			if e.named && space != e.namespace {
				return kind, nil, usage(fmt.Sprintf("name %q is of namespace %s, -n says %s", name, space, e.namespace), fmt.Sprintf("countersign %s %s %s -n %s", e.cmd.name, kind.Short, bare, space))
			}
			ref.Namespace, ref.Name = space, bare
		}
		refs = append(refs, ref)
	}
	return kind, refs, nil
}
