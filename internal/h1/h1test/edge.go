package h1test

// Edge are the cases as an edge listener answers them, on which shop.test is strict (http-strictness 5.3) and no other
// host is.
func Edge() [][]Case {
	tables := make([][]Case, len(Requests))
	for i, table := range Requests {
		for _, c := range table {
			if a, ok := atEdge[c.Name]; ok {
				c.Status, c.Reason = a.status, a.reason
			}
			tables[i] = append(tables[i], c)
		}
	}
	return tables
}

type answer struct {
	status []int
	reason string
}

// atEdge are the answers that differ from those of the base profile.
var atEdge = map[string]answer{
	"A18 lower-case method, base":      {[]int{501}, requestLine},
	"A23 TRACE, base":                  {[]int{405}, requestLine},
	"A24 OPTIONS *":                    {[]int{204}, ""},
	"B7a fragment after authority":     {bad, authority},
	"B10 fragment, base":               {bad, path},
	"B11 Latin-1 byte, base":           {bad, path},
	"B18 backslash, base":              {bad, path},
	"C4 climbs, base":                  {bad, path},
	"C5 climbs, encoded, base":         {bad, path},
	"C9 escaped slash, base":           {bad, path},
	"C10 escaped backslash, base":      {bad, path},
	"C11 escaped percent, base":        {bad, path},
	"C12 escaped semicolon, base":      {bad, path},
	"C12a escaped number sign, base":   {bad, path},
	"C12b escaped question mark, base": {bad, path},
	"C13 escaped control, base":        {bad, path},
	"C16 overlong UTF-8, base":         {bad, path},
	"D2 none in 1.0, base":             {bad, header},
	"D6 semicolon, base":               {bad, header},
	"D7 empty label, base":             {bad, header},
	"D8 port 0, base":                  {bad, header},
	"D11 empty port, base":             {bad, header},
	"D15 zone, base":                   {bad, header},
	"D22 label of 64, base":            {bad, header},
	"I4b remote-user, base":            {bad, header},
}
