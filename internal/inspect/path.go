package inspect

import (
	"fmt"
	"strings"
)

const (
	maxLinks   = 16
	maxDepth   = 40
	maxDirSize = 8 << 20
	maxNames   = 2000
)

// node is an inode as path resolution sees it.
type node interface {
	isDir() bool
	isLink() bool
	// bytes reads the first max bytes of a file or link.
	bytes(max int) ([]byte, error)
	// lookup finds an entry of a folder; errNotFound without one.
	lookup(name string) (node, error)
	// names lists a folder without "." and "..", at most maxNames of them.
	names() ([]string, error)
}

// resolve walks an absolute path from root, following symbolic links inside the
// file system, never out of it.
func resolve(root node, path string) (node, error) {
	parts := split(path)
	stack := []node{root}
	for links, steps := 0, 0; len(parts) > 0; steps++ {
		if steps > maxDepth*maxLinks || len(stack) > maxDepth {
			return nil, errBudget
		}
		name := parts[0]
		parts = parts[1:]
		switch name {
		case ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		here := stack[len(stack)-1]
		if !here.isDir() {
			return nil, errNotFound
		}
		n, err := here.lookup(name)
		if err != nil {
			return nil, err
		}
		if !n.isLink() {
			stack = append(stack, n)
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s has too many symbolic links", path)
		}
		target, err := n.bytes(4096)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(string(target), "/") {
			stack = stack[:1]
		}
		parts = append(split(string(target)), parts...)
		if len(parts) > maxDepth*maxLinks {
			return nil, errBudget
		}
	}
	return stack[len(stack)-1], nil
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
}

// find is the file or folder at path, which is absolute. Symbolic links are followed;
// what is not there is errNotFound.
func find(fs fileSystem, path string) (node, error) {
	root, err := fs.root()
	if err != nil {
		return nil, err
	}
	return resolve(root, path)
}

// readPath reads the first max bytes of the file at path.
func readPath(fs fileSystem, path string, max int) ([]byte, error) {
	n, err := find(fs, path)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, errNotFound
	}
	if max == 0 {
		return nil, nil
	}
	return n.bytes(max)
}

// listPath lists the folder at path; errNotFound if it is none.
func listPath(fs fileSystem, path string) ([]string, error) {
	n, err := find(fs, path)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, errNotFound
	}
	return n.names()
}

// collector gathers the names of a folder for names; it is full at maxNames.
type collector []string

func (c *collector) add(name string) (more bool) {
	if name != "." && name != ".." {
		*c = append(*c, name)
	}
	return len(*c) < maxNames
}
