package baseimage

func debianPackages() []string { return nil }

func (b *build) debianSteps() []namedStep { return nil }
