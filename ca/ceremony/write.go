// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	secretMode = 0o600
	publicMode = 0o644
	folderMode = 0o700

	// unfinished begins the name of the staging folder.
	unfinished = ".unfinished-"
)

// file is a file to write, in a folder below the CA's folder; "" for that folder itself.
type file struct {
	folder, name string
	mode         fs.FileMode
	content      []byte
}

// checkEmpty accepts a folder that does not exist or is empty, except for what mkfs leaves in a
// fresh volume.
func checkEmpty(dir string) error {
	if dir == "" {
		return errors.New("no folder is named that should get the CA")
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
		return fmt.Errorf("%s is a file; name a new or an empty folder", dir)
	}
	if err != nil {
		return fmt.Errorf("looking into %s: %w", dir, err)
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == "lost+found":
		case strings.HasPrefix(name, unfinished):
			return fmt.Errorf("%s holds %s, left by a mayfly ca init that was interrupted or still runs; remove it, or name a new folder", dir, name)
		default:
			return fmt.Errorf("%s is not empty, it holds %q; name a new or an empty folder, nothing is ever overwritten", dir, name)
		}
	}
	return nil
}

// create puts the files that build returns into dir, which is empty or does not exist. If it fails,
// it leaves nothing behind except the keys that build generated, which the error names.
func create(dir string, keys []*ExternalKey, build func() ([]file, error)) (err error) {
	defer func() {
		for _, key := range keys {
			err = key.Stays(err)
		}
	}()
	place, err := reserve(dir)
	if err != nil {
		return fmt.Errorf("writing to %s: %w", dir, err)
	}
	defer func() { err = place.release(err) }()
	files, err := build()
	if err != nil {
		return err
	}
	if err := place.write(files); err != nil {
		return fmt.Errorf("writing to %s: %w", dir, err)
	}
	return nil
}

// place is the target folder of files. They are written and synced in a staging folder inside
// it, so that it may be a mounted volume, and then moved to their places.
type place struct {
	dir, staging string
	made         []string // folders that this place created, dir first
	done         []string // paths in dir that this place created
}

// reserve creates dir, which is empty or does not exist. It checks that dir is writable
// before a key is generated that the ceremony cannot delete.
func reserve(dir string) (p *place, err error) {
	p = &place{dir: dir}
	if p.made, err = makeFolders(dir); err == nil {
		p.staging, err = os.MkdirTemp(dir, unfinished)
	}
	if err != nil {
		return nil, p.release(err)
	}
	p.done = []string{p.staging}
	return p, nil
}

// release removes, after an error, everything that this place created; it returns nil for nil.
func (p *place) release(err error) error {
	if err == nil {
		return nil
	}
	for _, path := range p.done {
		err = errors.Join(err, os.RemoveAll(path))
	}
	for _, path := range p.made {
		// Not RemoveAll: of two concurrent runs, one must not remove files of the other.
		_ = os.Remove(path)
	}
	return err
}

// write puts all files into the folder in their order, whole folders at a time.
func (p *place) write(all []file) error {
	names, err := stage(p.staging, all)
	if err != nil {
		return err
	}
	for _, name := range names {
		target := filepath.Join(p.dir, name)
		if err := os.Rename(filepath.Join(p.staging, name), target); err != nil {
			return err
		}
		p.done = append(p.done, target)
	}
	if err := errors.Join(os.Remove(p.staging), p.joinSet(names), files.SyncFolder(p.dir)); err != nil {
		return err
	}
	for _, path := range p.made {
		if err := files.SyncFolder(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// joinSet gives a folder beside a CA set the owner of the set, and the search permissions of the set's folder:
// as in files.Replace, an edit by root must not take files from their readers. The owner of the set may rename
// what is in its folder meanwhile: nothing outside of that folder is changed.
func (p *place) joinSet(names []string) error {
	dir, err := filepath.Abs(p.dir)
	if err != nil {
		return err
	}
	holder, id := filepath.Split(dir)
	set, err := os.Stat(filepath.Join(holder, setFile))
	if err != nil {
		return nil // no set is there
	}
	beside, err := os.OpenRoot(holder)
	if err != nil {
		return err
	}
	defer func() { _ = beside.Close() }()
	above, err := beside.Stat(".")
	if err != nil {
		return err
	}
	if owner, ok := set.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		for _, name := range append(names, ".") {
			if err := beside.Lchown(filepath.Join(id, name), int(owner.Uid), int(owner.Gid)); err != nil {
				return fmt.Errorf("giving it to the owner of %s: %w", set.Name(), err)
			}
		}
	}
	return beside.Chmod(id, folderMode|above.Mode().Perm()&0o011)
}

// stage writes and syncs files in staging, and returns the names that it then holds, in the
// order of all.
func stage(staging string, all []file) (names []string, err error) {
	for _, f := range all {
		if err := f.write(staging); err != nil {
			return nil, err
		}
		name := f.folder
		if name == "" {
			name = f.name
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, f := range all {
		if err := files.SyncFolder(filepath.Join(staging, f.folder)); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// makeFolders creates dir and missing folders above it, and returns the created folders, dir
// first.
func makeFolders(dir string) (made []string, err error) {
	for path := dir; ; path = filepath.Dir(path) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return made, os.MkdirAll(dir, folderMode)
		}
		made = append(made, path)
	}
}

func (f file) write(staging string) error {
	folder := filepath.Join(staging, f.folder)
	if err := os.MkdirAll(folder, folderMode); err != nil {
		return err
	}
	return files.Create(filepath.Join(folder, f.name), f.content, f.mode)
}
