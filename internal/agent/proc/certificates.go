package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// CertificateFolder holds certificates: in a task's directory, for its account
// alone and as long as it runs, and in the home of who logs in. agent.RootFiles
// hide a task's.
const CertificateFolder = "certs"

// certificateFile is a name that this file gives. Others are a user's own.
var certificateFile = regexp.MustCompile(`^sha1-[0-9a-f]{40}\.(pfx|pfx\.pw|cer)$`)

// placeCertificates puts the attempt's certificates where its command finds them.
func (t *task) placeCertificates() error {
	list := t.request.GetCertificates()
	if len(list) == 0 {
		return nil
	}
	root, err := os.OpenRoot(t.dir)
	if err == nil {
		defer root.Close()
		uid, gid := t.user.uid, t.user.gid
		if t.runner.rootless {
			uid, gid = -1, -1
		}
		err = setCertificates(root, list, uid, gid)
	}
	if err != nil {
		return (&failure{server: true, code: "ResourceFileCreateFailed", message: "The task's certificates could not be installed.", err: err}).orDiskFull()
	}
	return nil
}

// dropCertificates removes them when the attempt has ended: a task's files are
// read and copied afterwards, and keys must not be among them.
func (t *task) dropCertificates() {
	if len(t.request.GetCertificates()) == 0 {
		return
	}
	if err := os.RemoveAll(filepath.Join(t.dir, CertificateFolder)); err != nil {
		t.runner.cfg.Log.Error("a task's certificates could not be removed", "directory", t.dir, "error", err)
	}
}

// dropFormerCertificates removes those of attempts that did not outlive their
// agent.
func (r *Runner) dropFormerCertificates() {
	for _, pattern := range []string{"startup", "workitems/*/*/*"} {
		found, _ := filepath.Glob(filepath.Join(r.cfg.Root, pattern, CertificateFolder))
		for _, dir := range found {
			if root, err := os.OpenRoot(filepath.Dir(dir)); err == nil {
				_ = setCertificates(root, nil, -1, -1)
				root.Close()
			}
		}
	}
}

// setCertificates makes the certificates below root exactly those of list, readable
// by one account. What that account may have put there is not followed, and what is
// not named like a certificate is left alone. A negative uid leaves owners alone.
func setCertificates(root *os.Root, list []*nodev1.Certificate, uid, gid int) error {
	own := func(name string) error {
		if uid < 0 {
			return nil
		}
		return root.Lchown(name, uid, gid)
	}
	entries, err := fs.ReadDir(root.FS(), CertificateFolder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && len(list) > 0 {
		return err
	}
	for _, e := range entries {
		if certificateFile.MatchString(e.Name()) {
			if err := root.Remove(filepath.Join(CertificateFolder, e.Name())); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	if len(list) == 0 {
		if len(entries) > 0 {
			_ = root.Remove(CertificateFolder) // a user's own files keep it
		}
		return nil
	}
	if err := root.Mkdir(CertificateFolder, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	if info, err := root.Lstat(CertificateFolder); err != nil || !info.IsDir() {
		return errors.New("its " + CertificateFolder + " is no folder")
	}
	if err := own(CertificateFolder); err != nil {
		return err
	}
	for _, c := range list {
		name := "sha1-" + c.GetThumbprint() + "." + c.GetFormat()
		files := map[string][]byte{name: c.GetData()}
		if c.GetFormat() == "pfx" {
			files[name+".pw"] = []byte(c.GetPassword())
		}
		for name, data := range files {
			if !certificateFile.MatchString(name) {
				return fmt.Errorf("%q is no certificate's name", name)
			}
			if err := writeNew(root, filepath.Join(CertificateFolder, name), data); err != nil {
				return err
			}
			if err := own(filepath.Join(CertificateFolder, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeNew makes a file that was not there, readable by its owner alone.
func writeNew(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
