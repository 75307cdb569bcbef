package resource

import (
	"maps"
	slash "path"
	"slices"
	"strings"

	"countersign.dev/internal/route"
)

// TLS options of a listener that are ours (gateway.md 11.2).
const (
	certificateOption = optionPrefix + "certificate"
	filesOption       = optionPrefix + "certificate-files"
	minVersionOption  = optionPrefix + "min-version"
)

// checkTLS judges the options of a listener. One that is not known is refused: options of TLS are never there for
// nothing.
func (o *object) checkTLS(tls map[string]any, at *path) {
	options := fieldsOf(tls["options"])
	given := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		given[name] = textOf(options[name])
		if c := checkTLSOption(name, given[name]); c != nil {
			o.fault(c.code, at.field("options").field(name), atKey, c.text, c.hint)
		}
	}
	source, said := given[certificateOption]
	files, named := given[filesOption]
	refuse := func(name, text, hint string) { o.fault("E402", at.field("options").field(name), atKey, text, hint) }
	switch {
	case said && len(itemsOf(tls["certificateRefs"])) > 0:
		refuse(certificateOption, "beside certificateRefs, which say what is shown", "leave one of the two out")
	case named && len(itemsOf(tls["certificateRefs"])) > 0:
		refuse(filesOption, "beside certificateRefs, which say what is shown", "leave one of the two out")
	case source == "files" && !named:
		refuse(certificateOption, "files, and none is named", filesOption+": <dir>/<namespace>/chain.pem,<dir>/<namespace>/key.pem")
	case named && said && source != "files":
		refuse(filesOption, "beside "+certificateOption+": "+quote(source), "write files, or leave one of the two out")
	case named:
		if c := o.checkCertificateFiles(files); c != nil {
			o.fault(c.code, at.field("options").field(filesOption), atValue, c.text, c.hint)
		}
	}
}

func checkTLSOption(name, value string) *complaint {
	own, isOwn := strings.CutPrefix(name, optionPrefix)
	switch {
	case !isOwn:
		return complain("E301", "option "+quote(name)+" is of another implementation", waitHint)
	case name == certificateOption && isOneOf(value, "own", "files"), name == minVersionOption && isOneOf(value, "1.2", "1.3"), name == filesOption:
		return nil
	case name == certificateOption && value == "acme", own == "acme":
		return complain("E301", name+": "+quote(value)+" is not supported yet", waitHint)
	case name == certificateOption:
		return complain("E402", quote(value)+" is not a value of "+name, "own or files")
	case name == minVersionOption:
		return complain("E402", quote(value)+" is not a value of "+name, `"1.2" or "1.3", in quotes`)
	}
	return complain("E402", "option "+quote(name)+" is not known", didYouMean(own, []string{"certificate", "certificate-files", "min-version"}))
}

// checkCertificateFiles asks of both files that they lie below a namespace's directory. Which namespace's is for the
// condition of the listener to say: the file is not read.
func (o *object) checkCertificateFiles(value string) *complaint {
	chain, key, ok := cutFiles(value)
	if !ok {
		return complain("E402", quote(value)+" is not the names of two files", "a chain, a comma, and its key")
	}
	dirs := o.batch.options.CertificateDirs
	for _, file := range []string{chain, key} {
		if file != slash.Clean(file) || !slash.IsAbs(file) || strings.ContainsFunc(file, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return complain("E402", quote(file)+" is no absolute path in its shortest form", "")
		}
		if _, _, ok := route.CertificatePlace(dirs, file); !ok {
			return complain("E402", quote(file)+" is outside "+strings.Join(dirs, ", "),
				"files lie in <dir>/<namespace of the Gateway>/; certificateDirs of the file of up --config names other directories")
		}
	}
	return nil
}

func cutFiles(value string) (chain, key string, ok bool) {
	chain, key, ok = strings.Cut(value, ",")
	chain, key = strings.TrimSpace(chain), strings.TrimSpace(key)
	return chain, key, ok && chain != "" && key != "" && !strings.Contains(key, ",")
}

// listenerTLS is what the options say of an accepted listener.
func listenerTLS(l *route.Listener, options map[string]string) {
	l.TLS13 = options[minVersionOption] == "1.3"
	if chain, key, ok := cutFiles(options[filesOption]); ok {
		l.Files = &route.Files{Chain: chain, Key: key}
	}
}
