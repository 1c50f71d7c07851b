package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// decodeStrict decodes a YAML file over s and accepts nothing that it would not
// use: no unknown name, no name given twice, no second document, no other
// capitals. A setting that is silently ignored is how a plugin comes to run with
// the wrong key.
func decodeStrict(b []byte, s *settings) error {
	if err := oneDocument(string(b)); err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(b, s); err != nil {
		return err
	}
	var given, known any
	if err := yaml.Unmarshal(b, &given); err != nil {
		return err
	}
	names, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(names, &known); err != nil {
		return err
	}
	return sameNames("", given, known)
}

// sameNames makes up for encoding/json, which ignores capitals: listenaddr beside
// listenAddr would be a setting given twice. Every name given must be among those
// that the decoded settings are written with.
func sameNames(where string, given, known any) error {
	switch given := given.(type) {
	case map[string]any:
		known, _ := known.(map[string]any)
		for name, value := range given {
			own, ok := known[name]
			if !ok {
				return fmt.Errorf("unknown setting %q: capitals count", strings.TrimPrefix(where+"."+name, "."))
			}
			if err := sameNames(where+"."+name, value, own); err != nil {
				return err
			}
		}
	case []any:
		known, _ := known.([]any)
		for i := range min(len(given), len(known)) {
			if err := sameNames(fmt.Sprintf("%s[%d]", where, i), given[i], known[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneDocument refuses a second document, which the decoder would not read. Three
// dashes at the start of a line can be nothing else, not even in a block of text.
func oneDocument(text string) error {
	content := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "---"):
			if content {
				return errors.New("the file has more than one YAML document")
			}
			content = len(line) > len("---")
		case strings.TrimSpace(line) != "" && line[0] != '#' && line[0] != '%':
			content = true
		}
	}
	return nil
}
